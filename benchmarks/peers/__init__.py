"""The contestants, each a small program written the way its own documentation recommends.

What they are to do comes by environment: `BENCH_AMQP_URL`, `BENCH_QUEUE`, `BENCH_REPLIES`,
`BENCH_DATABASE_URL`, `BENCH_CONCURRENCY`. An `echo` parses the request's JSON and answers with it.
"""
