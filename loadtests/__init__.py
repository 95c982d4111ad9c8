"""Programs that measure: side by side with a control in the same run, a table on stdout, JSON in `reports/`."""
