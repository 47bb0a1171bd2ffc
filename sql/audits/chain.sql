-- name: chain
-- checks: The hash chain over ledger and live batches is unbroken and ends in the stream's state.
-- needs: chain_breaks
select step, problem, expected, found from chain_breaks order by step, problem
