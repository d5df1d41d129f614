{#
  Name of the schema that holds our state: the variable `schema` of the block `dbt_segments`, else
  `<target schema>_dbt_segments`. The Python side computes the same name.
#}
{% macro _state_schema() -%}
  {%- set settings = var('dbt_segments', none) or {} -%}
  {{ return(settings.get('schema') or target.schema ~ '_dbt_segments') }}
{%- endmacro %}
