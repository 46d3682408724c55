import time
from rwmmodel.checkpoint import save_model
from rwmrl.offline import PolicyConfig, train_policy
def test_curve(home, dataset, model_run, steerable_model):
    save_model(steerable_model, model_run.checkpoints / "model.safetensors")
    for kw in [dict(iterations=30,num_envs=128,init_std=0.5,gamma=0.5,num_steps=12,lr=1e-3), dict(iterations=30,num_envs=128,init_std=0.5,gamma=0.5,num_steps=12,obs_normalization=False), dict(iterations=30,num_envs=64,init_std=1.0,gamma=0.5,num_steps=12,obs_normalization=False,lr=3e-3,schedule="fixed",entropy_coef=0.0)]:
        t=time.time()
        run = train_policy(home, dataset, model_run, PolicyConfig.preset("smoke", hidden_dims=(32,), noise=False, push_velocity=0.0, **kw))
        from rwmrl.ppo import series
        s=series(run); print(kw, time.time()-t)
        for k in s:
            if k.startswith(("reward","imagined","policy","perf")): print(f"{k:32s}", " ".join(f"{v:8.5f}" for v in s[k][::5]+s[k][-1:]))
