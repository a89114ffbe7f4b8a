"""The command line: flags and exit statuses, configs of runs, folders of runs, progress."""
