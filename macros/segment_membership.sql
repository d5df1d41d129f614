{#
  A query for every record of an entity: its key, and `segments`, the sorted names of the segments that it is in now.

  For a model of the user's own:  {{ dbt_segments.segment_membership('customer') }}

  entity  the name of an entity, as its `dbt_segments` block says

  Which models are segments is known only when dbt executes, so the calling model needs a line
  `-- depends_on: {{ ref('...') }}` for each; `dbt-segments validate` names them, `validate --fix` writes them. `ref` is
  called here for each as well, so that dbt stops where one is missing.
#}
{% macro segment_membership(entity) -%}
  {{ return(adapter.dispatch('segment_membership', 'dbt_segments')(entity)) }}
{%- endmacro %}

{% macro default__segment_membership(entity) -%}
  {%- if not execute -%}
    {{ return('select 1 as not_executed') }}
  {%- endif -%}
  {%- set found = dbt_segments._segments_of(entity) -%}
  {%- set key = adapter.quote(found.key) %}
  {%- if found.segments %}
with segment_rows as (
    {%- for segment in found.segments %}
  select
    {{ key }} as entity_key,
    {{ dbt_segments._text(segment.name) }} as segment
  from {{ dbt_segments._relation_of(segment.node) }}
  where {{ key }} is not null
    {{- '\n  union' if not loop.last }}
    {%- endfor %}
),

memberships as (
  select
    entity_key,
    {{ dbt_segments._sorted_list('segment') }} as segments
  from segment_rows
  group by entity_key
)

select
  entities.{{ key }},
  coalesce(memberships.segments, {{ dbt_segments._empty_list() }}) as segments
from {{ dbt_segments._relation_of(found.node) }} as entities
left join memberships on memberships.entity_key = entities.{{ key }}
where entities.{{ key }} is not null
  {%- else %}
select
  {{ key }},
  {{ dbt_segments._empty_list() }} as segments
from {{ dbt_segments._relation_of(found.node) }}
where {{ key }} is not null
  {%- endif %}
{%- endmacro %}
