-- checkpoints: the registered model checkpoints. next_step is the first step that one has not seen.
create view this.checkpoints as
select * from this.checkpoint_states
where next_step <= {stop}
order by next_step, registered_at;
