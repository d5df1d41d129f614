{# A text as an SQL literal. #}
{% macro _text(value) -%}
  '{{ dbt.escape_single_quotes(value ~ '') }}'
{%- endmacro %}
