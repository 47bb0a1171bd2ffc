-- sources_of_files: the sources that stand in data files alone. Reads one column of them.
select source
from samples
where step >= $first and step <= $last
    and step in (
        select step from parts where source is null and step >= $first and step <= $last
    )
