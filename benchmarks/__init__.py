"""Measurements that anyone can repeat; figures in the docs come from here."""
