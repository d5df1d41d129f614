{# A list without items, of the type that `_sorted_list` yields. #}
{% macro _empty_list() -%}
  {{ return(adapter.dispatch('_empty_list', 'dbt_segments')()) }}
{%- endmacro %}

{% macro default___empty_list() -%}
  {{ exceptions.raise_compiler_error('segment_membership: adapter ' ~ target.type ~ ' is not supported yet') }}
{%- endmacro %}

{% macro duckdb___empty_list() -%}
  cast([] as varchar[])
{%- endmacro %}

{% macro postgres___empty_list() -%}
  cast('{}' as text[])
{%- endmacro %}
