{# The relation of a node through `ref` or `source`, so that dbt checks that the model depends on it. #}
{% macro _relation_of(node) -%}
  {%- if node.resource_type == 'source' -%}
    {{ return(source(node.source_name, node.name)) }}
  {%- elif node.version -%}
    {{ return(ref(node.package_name, node.name, version=node.version)) }}
  {%- endif -%}
  {{ return(ref(node.package_name, node.name)) }}
{%- endmacro %}
