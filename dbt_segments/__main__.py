"""`python -m dbt_segments` is the command `dbt-segments`."""

from dbt_segments.cli import main

if __name__ == "__main__":
    main(prog_name="dbt-segments")
