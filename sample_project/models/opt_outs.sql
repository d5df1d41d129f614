select customer_id
from {{ ref('raw_opt_outs') }}
