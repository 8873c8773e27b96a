"""What is counted while it happens, in Prometheus's terms; the state of things is read when asked for.

With several web processes set PROMETHEUS_MULTIPROC_DIR to a folder that is empty at their start:
then any of them answers for all.
"""

from prometheus_client import Counter, Histogram

COMMANDS = Counter(
    "ledger_commands",
    "Commands by name and what came of them: accepted, rejected, replayed, failed.",
    ["name", "outcome"],
)
APPEND = Histogram(
    "ledger_append_seconds",
    "From loading the accounts of a batch of commands to their commit.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BATCH = Histogram(
    "ledger_batch_commands",
    "Commands that shared an append.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
CONFLICTS = Counter(
    "ledger_conflicts", "Appends that were tried again: another process was faster."
)
REQUESTS = Histogram(
    "ledger_http_request_seconds",
    "Requests by method, route and status.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
