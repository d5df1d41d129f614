-- Spent at least 400 EUR in all.
select
  customer_id,
  sum(amount_eur) as spent_eur
from {{ ref('orders') }}
group by customer_id
having sum(amount_eur) >= 400
