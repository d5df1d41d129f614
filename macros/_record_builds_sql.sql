{#
  SQL that appends `builds` to the state table `model_builds`, and creates schema and table where they are missing.

  They are looked up first: `create ... if not exists` asks for the privilege to create even where nothing is created.
#}
{% macro _record_builds_sql(builds) -%}
  {{ return(adapter.dispatch('_record_builds_sql', 'dbt_segments')(builds)) }}
{%- endmacro %}

{% macro default___record_builds_sql(builds) -%}
  {%- set schema = dbt_segments._state_schema() -%}
  {%- set table = api.Relation.create(database=target.database, schema=schema, identifier='model_builds', type='table') -%}
  {%- set has_schema = adapter.check_schema_exists(target.database, schema) -%}
  {%- set has_table = has_schema and dbt_segments._has_table(table) -%}
  {%- set built_at = modules.datetime.datetime.now(modules.pytz.utc).strftime('%Y-%m-%d %H:%M:%S.%f') -%}

  {%- if not has_schema %}
create schema if not exists {{ table.without_identifier().include(database=false) }};
  {%- endif %}
  {%- if not has_table %}
create table if not exists {{ table }} (
  invocation_id {{ dbt.type_string() }},
  unique_id {{ dbt.type_string() }},
  resource_type {{ dbt.type_string() }},
  command {{ dbt.type_string() }},
  status {{ dbt.type_string() }},
  is_empty {{ dbt.type_boolean() }},
  is_sample {{ dbt.type_boolean() }},
  built_at {{ dbt.type_timestamp() }},
  protocol {{ dbt.type_int() }}
);
  {%- endif %}
  {%- for page in builds | batch(500) %}
insert into {{ table }} (
  invocation_id,
  unique_id,
  resource_type,
  command,
  status,
  is_empty,
  is_sample,
  built_at,
  protocol
)
values
    {%- for build in page %}
  (
    {{- dbt_segments._text(invocation_id) }},
    {{- dbt_segments._text(build.unique_id) }},
    {{- dbt_segments._text(build.resource_type) }},
    {{- dbt_segments._text(flags.WHICH) }},
    {{- dbt_segments._text(build.status) }},
    {{- build.is_empty | lower }},
    {{- build.is_sample | lower }},
    cast({{ dbt_segments._text(built_at) }} as {{ dbt.type_timestamp() }}),
    {{- dbt_segments._protocol() -}}
  ){{ ',' if not loop.last }}
    {%- endfor %};
  {%- endfor %}
{%- endmacro %}
