{#
  What the project declares of an entity: its node, its key, and its segments by name; each segment is
  `{'name', 'node'}`. An error names the entities that there are.
#}
{% macro _segments_of(entity) -%}
  {%- set all = namespace(entity=none, names=[], segments=[]) -%}
  {%- set nodes = graph.nodes.values() | list + graph.sources.values() | list -%}
  {%- for node in nodes if node.resource_type in ['model', 'seed', 'snapshot', 'source'] -%}
    {%- set block = dbt_segments._block_of(node) -%}
    {%- if block.entity -%}
      {%- set all.names = all.names + [block.entity.name] -%}
      {%- if block.entity.name == entity -%}
        {%- set all.entity = {'node': node, 'key': block.entity.key} -%}
      {%- endif -%}
    {%- endif -%}
    {%- if block.segment and block.segment.entity == entity -%}
      {%- set own = node.name ~ ('_v' ~ node.version if node.version else '') -%}
      {%- set all.segments = all.segments + [{'name': block.segment.name or own, 'node': node}] -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if not all.entity -%}
    {{ exceptions.raise_compiler_error(
        "segment_membership('" ~ entity ~ "'): no model declares this entity; entities: "
        ~ (all.names | sort | join(', ') or 'none')
    ) }}
  {%- endif -%}
  {{ return({
      'node': all.entity.node,
      'key': all.entity.key,
      'segments': all.segments | sort(attribute='name'),
  }) }}
{%- endmacro %}
