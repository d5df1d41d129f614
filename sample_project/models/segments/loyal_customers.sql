-- Ordered at least six times. The score counts a recent order more than an old one.
select
  customer_id,
  cast(round(sum(100.0 / (30 + date_diff('day', ordered_on, cast('{{ var("today") }}' as date))))) as integer) as score
from {{ ref('orders') }}
group by customer_id
having count(*) >= 6
