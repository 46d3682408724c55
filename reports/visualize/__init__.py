"""A robot beside its imagined twin: both under the same actions, as pictures, numbers and in the browser."""
