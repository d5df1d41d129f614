-- Companies whose people spent at least 1,000 EUR.
select
  customers.company_id,
  sum(orders.amount_eur) as spent_eur
from {{ ref('orders') }} as orders
join {{ ref('customers') }} as customers on customers.customer_id = orders.customer_id
where customers.company_id is not null
group by customers.company_id
having sum(orders.amount_eur) >= 1000
