"""What is fast, measured side by side; figures in docs/benchmarks.md."""
