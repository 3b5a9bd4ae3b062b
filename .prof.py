import os, time, torch, tempfile
from pathlib import Path
os.environ['SLATE_RL_OUTPUTS']=tempfile.mkdtemp()
from offline_slate_rl.studies.gpu import *
from offline_slate_rl.studies import gpu as g
if __name__=='__main__':
    pretrained()
    for r in g.stack_rows(6,10): print(r, flush=True)
    members=[Member(of_gpu(env, seed, **{'training.device': 'cuda'}), Run({}, Path(), '', '')) for env in PUBLISHED for seed in seeds(10)]
    stack=Stack(members)
    for step in (0,20,40): stack.advance(step)
    stack.update(2); stack.advance(60); torch.cuda.synchronize()
    from torch.profiler import profile, ProfilerActivity
    for what, work in (('update', lambda: stack.update(2)), ('play', lambda: stack.advance(80)), ('validate', lambda: stack._validate())):
        if what=='validate': work()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as prof:
            t=time.perf_counter(); work(); torch.cuda.synchronize(); print(what, 'wall ms', 1000*(time.perf_counter()-t))
        rows=[e for e in prof.key_averages() if e.self_device_time_total>0]
        rows.sort(key=lambda e:-e.self_device_time_total)
        print(what,'total ms',sum(e.self_device_time_total for e in rows)/1000, sum(e.count for e in rows))
        for e in rows[:22]: print(f'{e.self_device_time_total/1000:9.3f} ms {e.count:6d} {e.key[:150]}')
    torch.backends.cuda.matmul.allow_tf32=True
    s2=Stack(members)
    for step in (100,): s2.advance(step)
    print('tf32 update ms',1000*timed(lambda: s2.update(20),2)/20)
