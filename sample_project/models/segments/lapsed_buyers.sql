-- Bought once, but nothing for half a year.
select customer_id
from {{ ref('orders') }}
group by customer_id
having max(ordered_on) < cast('{{ var("today") }}' as date) - interval '180 days'
