"""The study of docs/results/plan.md: its runs, tables and figures."""
