"""Tables, figures, reports and sweeps from run and eval folders (imports evals and trapo)."""
