{#
  Commits the transaction that an earlier hook may have left open, as any hook does that calls `adapter.get_relation`;
  dbt would roll it back at the end, and our rows with it. The statement opens one where there is none, because a commit
  outside a transaction is an error.
#}
{% macro _end_transaction() -%}
  {{ return(adapter.dispatch('_end_transaction', 'dbt_segments')()) }}
{%- endmacro %}

{% macro default___end_transaction() -%}
{%- endmacro %}

{% macro postgres___end_transaction() -%}
  {%- call statement('dbt_segments_end_transaction', auto_begin=true) -%}
    select 1
  {%- endcall -%}
  {%- do adapter.commit() -%}
{%- endmacro %}

{% macro duckdb___end_transaction() -%}
  {%- if not adapter.disable_transactions() -%}
    {%- do dbt_segments.postgres___end_transaction() -%}
  {%- endif -%}
{%- endmacro %}
