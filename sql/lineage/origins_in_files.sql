-- origins_in_files: the same of the steps that `origins` leaves out. Reads one column of their files.
select step, source, count(*) as slices
from sources
where not reclaimed and step >= $first and step <= $last
    and step in (
        select step from parts where source is null and step >= $first and step <= $last
    )
group by step, source;
