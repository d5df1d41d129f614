{#
  Records what this command built and tested, so that a sync can tell whether a segment may be sent.

  For the user's dbt_project.yml:  on-run-end: "{{ dbt_segments.on_run_end() }}"

  Yields the SQL of the hook: nothing for commands that build or test nothing, though dbt runs the hook for `compile` and
  `docs generate` too. It only appends to a table of our own, so no data of the user's can make it fail; and because it
  yields its SQL and does not run it, dbt reports an error as a failed hook (an error inside a hook's macro would end the
  whole command as an interrupt).
#}
{% macro on_run_end() -%}
  {{ return(adapter.dispatch('on_run_end', 'dbt_segments')()) }}
{%- endmacro %}

{% macro default__on_run_end() -%}
  {%- if execute and flags.WHICH in ['run', 'build', 'retry', 'seed', 'snapshot', 'test'] -%}
    {%- set builds = dbt_segments._builds_of(results) -%}
    {%- if builds -%}
      {%- do dbt_segments._end_transaction() -%}
      {{ return(dbt_segments._record_builds_sql(builds)) }}
    {%- endif -%}
  {%- endif -%}
  {{ return('') }}
{%- endmacro %}
