{# Aggregate of a text column as a list, sorted by code points whatever the database's collation. #}
{% macro _sorted_list(column) -%}
  {{ return(adapter.dispatch('_sorted_list', 'dbt_segments')(column)) }}
{%- endmacro %}

{% macro default___sorted_list(column) -%}
  {{ exceptions.raise_compiler_error('segment_membership: adapter ' ~ target.type ~ ' is not supported yet') }}
{%- endmacro %}

{% macro duckdb___sorted_list(column) -%}
  list_sort(list({{ column }}))
{%- endmacro %}

{% macro postgres___sorted_list(column) -%}
  array_agg(cast({{ column }} as text) order by {{ column }} collate "C")
{%- endmacro %}
