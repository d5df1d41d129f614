"""Audiences from dbt models. Importing this costs nothing: dbt imports it in every command."""

__version__ = "0.1.0"
