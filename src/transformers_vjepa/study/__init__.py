"""The paper's comparisons in miniature: plan, runs, results and one report page."""
