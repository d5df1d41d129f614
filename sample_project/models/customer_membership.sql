-- depends_on: {{ ref('customers') }}
-- depends_on: {{ ref('big_spenders') }}
-- depends_on: {{ ref('lapsed_buyers') }}
-- depends_on: {{ ref('loyal_customers') }}
-- depends_on: {{ ref('new_customers') }}
-- depends_on: {{ ref('newsletter_readers') }}
-- depends_on: {{ ref('nordic_customers') }}
{{ dbt_segments.segment_membership('customer') }}
