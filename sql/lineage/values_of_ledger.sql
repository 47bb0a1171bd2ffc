-- values_of_ledger: the same once for each distinct value of a lineage column in the slice.
select
    * exclude (lineage),
    unnest(
        map_extract_value(lineage::json::map(varchar, json), {column})::{kind}[]
    )::{type} as {as_name}
from ({slices_of_ledger})
where lineage is not null
