-- ledger: what is kept of the batches whose data was reclaimed, one row a batch.
create view this.ledger as
select * from this.ledger_of_stream
where batch_step < least({watermark}, {stop})
order by batch_step;
