"""The run folder, the progress line, plots and the HTML report."""
