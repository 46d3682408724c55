"""The benchmarks of ``rwm bench``: each beside a baseline in the same run, so that its ratio can be read anywhere."""
