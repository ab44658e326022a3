"""Load on any OpenAI-compatible server, measured from the client's side. HTTP only; knows nothing of rigserve's services."""

SCHEMA = "rigserve-loadtest/1"
