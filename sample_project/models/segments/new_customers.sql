-- Signed up in the last half year.
select customer_id
from {{ ref('customers') }}
where signed_up_on > cast('{{ var("today") }}' as date) - interval '180 days'
