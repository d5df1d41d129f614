select
  order_id,
  customer_id,
  ordered_on,
  amount_eur
from {{ ref('raw_orders') }}
