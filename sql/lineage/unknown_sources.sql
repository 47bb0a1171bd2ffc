-- unknown_sources: of how many data files the metadata does not say where they came from.
select count(*) as files, count(distinct step) as steps, min(step) as first, max(step) as last
from parts
where source is null and step >= $start and step < $stop;
