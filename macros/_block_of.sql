{# The `dbt_segments` block of a node, from `config.meta` or else from `meta`; empty where there is none. #}
{% macro _block_of(node) -%}
  {%- set own = (node.config.meta or {}).get('dbt_segments') or (node.meta or {}).get('dbt_segments') -%}
  {{ return(own or {}) }}
{%- endmacro %}
