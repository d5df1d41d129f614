{#
  Whether a table is there, without the adapter's cache: `adapter.get_relation` begins a transaction that nobody commits,
  and what the hook writes afterwards is rolled back when dbt closes the connection.
#}
{% macro _has_table(table) -%}
  {{ return(adapter.dispatch('_has_table', 'dbt_segments')(table)) }}
{%- endmacro %}

{% macro default___has_table(table) -%}
  {%- set found = run_query(
      'select count(*) from information_schema.tables where lower(table_schema) = lower('
      ~ dbt_segments._text(table.schema) ~ ') and lower(table_name) = lower(' ~ dbt_segments._text(table.identifier) ~ ')'
  ) -%}
  {{ return(found.columns[0].values()[0] > 0) }}
{%- endmacro %}
