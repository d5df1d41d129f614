import random, sys, copy, dataclasses
import pytest
from tests.kill.harness import *
from tests.kill.test_kills import some_people
from tests.world import make_world, sandbox
from tests.projects import DuckDBWarehouse
def works(tmp, a, b, n=[0]):
    n[0]+=1
    d = tmp/str(n[0]); d.mkdir()
    with sandbox() as serving:
        w = make_world(d/"shop", DuckDBWarehouse(d/"w.duckdb"), serving); furnish(w)
        for x in (a,b):
            x.write(w); r=w.run().syncs[0]
            if r.status in ("held","failed"): return True, r
        if not w.audiences(): return True, r
        held, exp = w.held(), b.expected()
        return not (exp-held), (sorted(exp-held), sorted(held-exp), r.counts)
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_s(tmp_path, seed):
    luck = random.Random(seed)
    ds=[some_people(luck) for _ in range(10)]
    for i in range(9):
        a,b=ds[i],ds[i+1]
        if not works(tmp_path,a,b)[0]: break
    else:
        print("no pair"); return
    changed=True
    while changed:
        changed=False
        for key in sorted(set(a.customers)|set(b.customers)):
            a2,b2=copy.deepcopy(a),copy.deepcopy(b)
            for x in (a2,b2):
                x.customers.pop(key,None); x.members.discard(key); x.opt_outs.discard(key)
            if not a2.members or not b2.members: continue
            if not works(tmp_path,a2,b2)[0]:
                a,b=a2,b2; changed=True
    for x in (a,b):
        x.members &= set(x.customers)
    print("A",a); print("B",b); print(works(tmp_path,a,b))
