{#
  One dict per model, seed, snapshot and test in dbt's `results`; hooks and unit tests are left out.

  is_sample also stands for event-time bounds: either way the table holds a part of its rows. Both are recorded and not
  skipped, for a table that `--empty` emptied must hold the next sync.
#}
{% macro _builds_of(results) -%}
  {%- set arguments = invocation_args_dict -%}
  {%- set is_sample = (arguments.get('sample') or arguments.get('event_time_start') or arguments.get('event_time_end')) -%}
  {%- set found = namespace(builds=[]) -%}
  {%- for result in results if result.node.resource_type in ['model', 'seed', 'snapshot', 'test'] -%}
    {%- set found.builds = found.builds + [{
      'unique_id': result.node.unique_id,
      'resource_type': result.node.resource_type ~ '',
      'status': result.status ~ '',
      'is_empty': true if flags.EMPTY else false,
      'is_sample': true if is_sample else false,
    }] -%}
  {%- endfor -%}
  {{ return(found.builds) }}
{%- endmacro %}
