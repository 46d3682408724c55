"""The adapter for Isaac Lab and mjlab, against a fake with the attribute names and shapes their documentation gives."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch

from rwmdata.errors import RwmError
from rwmdata.home import Home
from rwmrl import backends, export
from rwmrl.doctor import diagnose
from rwmrl.envs import isaaclab as isaaclab_env
from rwmrl.envs.base import EnvOptions
from rwmrl.envs.manager_based import ManagerBasedEnv, drop_events, pick_task
from rwmrl.export import ExportConfig, export_dataset

E = 3
SIM_ORDER = [5, 3, 0, 1, 2, 4, 11, 10, 9, 8, 7, 6]
"""The fake simulator lists our joint ``SIM_ORDER[k]`` at place k."""


class Array:
    """An array of Isaac Lab 3.0: its tensor is its attribute ``torch``, and it is none itself."""

    def __init__(self, tensor):
        self.torch = tensor


def like_isaaclab_3(fake):
    """Give a fake the names and arrays of Isaac Lab 3.0, whose net forces hold friction too."""
    articulation, sensor = fake.scene["robot"], fake.scene.sensors["contact_forces"]
    articulation.actuators = SimpleNamespace(applied_effort=Array(fake.data.applied_torque))
    shown = {name: Array(value) for name, value in vars(fake.data).items() if name != "applied_torque"}
    articulation.data = SimpleNamespace(**shown)
    sensor.sensor_names = vars(sensor).pop("body_names")
    sensor.data = SimpleNamespace(net_normal_forces_w=Array(fake.forces), net_forces_w=Array(fake.forces + 5.0))
    return fake


class FakeEnv:
    """Joint positions follow the actions at once; a robot falls when its first action exceeds 5.

    Like Isaac Lab it resets inside ``step``, and shows the torques of the old episode until it steps again.
    """

    def __init__(self, robot, style="isaaclab", groups=(), step_dt=0.02, length=50):
        self.num_envs, self.device, self.step_dt, self.max_episode_length = E, "cpu", step_dt, length
        self.episode_length_buf = torch.zeros(E, dtype=torch.int64)
        names = [robot.joints[i] + ("_joint" if style == "mjlab" else "") for i in SIM_ORDER]
        bodies = ["world", robot.base_body, *reversed(robot.thigh_bodies), *robot.foot_bodies]
        self.data = SimpleNamespace(
            projected_gravity_b=torch.tensor([[0.0, 0.0, -1.0]]).repeat(E, 1),
            joint_pos=torch.zeros(E, 12), joint_vel=torch.zeros(E, 12),
            default_joint_pos=torch.tensor([robot.default_joint_pos[i] for i in SIM_ORDER]).repeat(E, 1),
        )  # fmt: skip
        link = "_link" if style == "mjlab" else ""
        for k, kind in enumerate(("lin", "ang")):
            setattr(self.data, f"root{link}_{kind}_vel_b", torch.full((E, 3), 1.0 + k))
        self.torque = "qfrc_actuator" if style == "mjlab" else "applied_torque"
        setattr(self.data, self.torque, torch.zeros(E, 12))
        self.forces = torch.zeros(E, len(bodies), 3)
        sensor = SimpleNamespace(body_names=bodies, data=SimpleNamespace(net_forces_w=self.forces))
        articulation = SimpleNamespace(data=self.data, joint_names=names)

        class Scene(dict):
            sensors = {"height": SimpleNamespace(data=SimpleNamespace()), "contact_forces": sensor}

        self.scene = Scene(robot=articulation)
        self.applied = torch.zeros(E, 12)
        self.action_manager = SimpleNamespace(
            active_terms=["joint_pos"],
            get_term=lambda name: SimpleNamespace(**{"_joint_names" if style == "isaaclab" else "target_names": names}),
        )
        self.velocity = torch.zeros(E, 4)
        self.command_manager = SimpleNamespace(
            active_terms=["pose", "base_velocity"],
            get_command=lambda name: self.velocity if name == "base_velocity" else torch.zeros(E, 2),
        )
        found = {"system_state": torch.full((E, 45), 7.0), "system_contact": torch.ones(E, 8),
                 "system_action": torch.full((E, 12), 3.0), "system_termination": torch.zeros(E, 1)}  # fmt: skip
        self.observation_manager = SimpleNamespace(
            active_terms={g: [] for g in ("policy", *groups)}, compute_group=lambda name: found[name]
        )
        self.resets, self.closed = [], False
        self.reset()

    def reset(self, seed=None, env_ids=None, options=None):
        self._reset_idx(torch.arange(E) if env_ids is None else env_ids)
        return {}, {}

    def _reset_idx(self, env_ids):
        self.resets += env_ids.tolist()
        self.data.joint_pos[env_ids] = self.data.default_joint_pos[env_ids]
        self.applied[env_ids] = 0.0
        self.action_manager.action = self.applied
        self.episode_length_buf[env_ids] = 0
        self.forces[env_ids] = 0.0

    def step(self, action):
        self.applied[:] = action
        self.action_manager.action = self.applied
        self.data.joint_pos[:] = self.data.default_joint_pos + 0.5 * action
        getattr(self.data, self.torque)[:] = 10 * action
        self.forces[:, -4:, 2] = 0.5 + action[:, :1]
        self.episode_length_buf += 1
        fell, late = action[:, 0] > 5, self.episode_length_buf >= self.max_episode_length
        done = (fell | late).nonzero().squeeze(-1)
        if len(done):
            self._reset_idx(done)
        self.velocity[:, 0] += 1
        return {}, torch.zeros(E), fell, late, {}

    def close(self):
        self.closed = True


@pytest.mark.parametrize("style", ["isaaclab", "isaaclab3", "mjlab"])
def test_rows_have_our_joint_order_whatever_the_simulators(robot, schema, style):
    fake = FakeEnv(robot, style.removesuffix("3"))
    if style == "isaaclab3":
        like_isaaclab_3(fake)
    env = ManagerBasedEnv(fake, robot, noise=False)
    actions = torch.arange(36.0).reshape(E, 12) / 100
    step = env.step(actions)
    rows = step.transition
    assert torch.equal(rows[:, schema.action], actions)
    torch.testing.assert_close(rows[:, schema.group("joint_pos")], 0.5 * actions)
    torch.testing.assert_close(rows[:, schema.group("joint_torque")], 10 * actions)
    torch.testing.assert_close(fake.applied, actions[:, SIM_ORDER])
    assert rows[0, schema.group("base_lin_vel")].tolist() == [1, 1, 1]
    assert rows[0, schema.group("base_ang_vel")].tolist() == [2, 2, 2]
    assert rows[0, schema.group("thigh_contact")].tolist() == [0] * 4
    assert step.observations["policy"].shape == (E, 48)
    assert set(step.observations) == {
        "policy", "system_state", "system_action", "system_contact", "system_termination"
    }  # fmt: skip


@pytest.mark.parametrize("change", [lambda fake: fake, like_isaaclab_3], ids=["2.3", "3.0"])
def test_feet_touch_where_the_normal_force_exceeds_one_newton(robot, schema, change):
    env = ManagerBasedEnv(change(FakeEnv(robot)), robot, noise=False)
    actions = torch.zeros(E, 12)
    actions[1, SIM_ORDER[0]] = 0.6  # the simulator's first action: 0.5 + 0.6 N on its feet
    contact = env.step(actions).transition[:, schema.group("foot_contact")]
    assert contact.tolist() == [[0] * 4, [1] * 4, [0] * 4]


def test_an_episodes_last_row_is_the_one_before_the_reset(robot, schema):
    env = ManagerBasedEnv(FakeEnv(robot, length=3), robot, noise=False)
    actions = torch.full((E, 12), 0.1)
    actions[1] = 6.0
    step = env.step(actions)
    assert step.terminated.tolist() == [False, True, False] and not step.truncated.any()
    torch.testing.assert_close(step.transition[1, schema.group("joint_pos")], torch.full((12,), 3.0))
    assert step.transition[:, -1].tolist() == [0, 1, 0]
    now = env.current_rows()[1]
    assert now[schema.action].abs().max() == 0 and now[schema.group("joint_pos")].abs().max() == 0
    assert now[schema.group("joint_torque")].abs().max() == 0  # not those of the old episode
    assert now[-1] == 0 and torch.equal(env.get_observations()["system_state"][1], now[schema.state])
    for _ in range(2):
        step = env.step(torch.full((E, 12), 0.1))
    assert step.truncated.tolist() == [True, False, True] and not step.terminated.any()
    torch.testing.assert_close(step.transition[0, schema.action], torch.full((12,), 0.1))


def test_the_reward_is_for_the_command_the_step_was_made_under(robot):
    fake = FakeEnv(robot)
    env = ManagerBasedEnv(fake, robot, noise=False)
    fake.velocity[:] = 0.0
    fake.velocity[:, :2] = 1.0  # what the base does; the fake changes it at the end of the step
    weights = {k: 0.0 for k in robot.reward_weights} | {"track_lin_vel_xy_exp": 1.0}
    env = ManagerBasedEnv(fake, robot, noise=False, reward_weights=weights)
    assert env.step(torch.zeros(E, 12)).reward.tolist() == pytest.approx([0.02] * E)
    assert env.step(torch.zeros(E, 12)).reward.max() < 0.01


def test_the_tasks_own_system_groups_are_used(robot, schema):
    groups = ("system_state", "system_action", "system_contact", "system_termination")
    env = ManagerBasedEnv(FakeEnv(robot, groups=groups), robot, noise=False)
    row = env.step(torch.zeros(E, 12)).transition[0]
    assert row.tolist() == [7.0] * 45 + [3.0] * 12 + [1.0] * 8 + [0.0]
    fake = FakeEnv(robot, groups=("system_state",))
    fake.observation_manager.compute_group = lambda name: torch.zeros(E, 44)
    with pytest.raises(RwmError, match=r"'system_state' has shape \(3, 44\); robot 'anymal_d' needs \(3, 45\)"):
        ManagerBasedEnv(fake, robot)


def test_a_robot_that_blew_up_is_reset_and_its_last_sound_row_repeated(robot, schema):
    fake = FakeEnv(robot)
    env = ManagerBasedEnv(fake, robot, noise=False)
    actions = torch.zeros(E, 12)
    actions[2] = torch.nan
    before, fake.resets = env.current_rows()[2].clone(), []
    step = env.step(actions)
    assert step.log["unstable"].tolist() == [0, 0, 1] and step.truncated.tolist() == [False, False, True]
    assert torch.equal(step.transition[2], before) and fake.resets == [2]
    assert torch.isfinite(env.current_rows()).all() and step.reward[2] == 0


def test_what_the_task_lacks_is_named(robot):
    def without(change, **options):
        fake = FakeEnv(robot, **options)
        change(fake)
        return fake

    def no_command(fake):
        fake.command_manager.active_terms = ["pose"]

    cases = [
        (lambda f: f.scene.clear(), "no articulation named 'robot'"),
        (lambda f: f.scene["robot"].joint_names.__setitem__(0, "tail"), "no joint LH_HFE of robot 'anymal_d'"),
        (lambda f: f.scene.sensors.pop("contact_forces"), "no contact sensor"),
        (lambda f: f.scene.sensors["contact_forces"].body_names.pop(), "no body of the contact sensor RH_FOOT"),
        (no_command, "no velocity command"),
        (lambda f: setattr(f.action_manager, "active_terms", []), "actions move 0 joints"),
    ]
    for change, message in cases:
        with pytest.raises(RwmError, match=message):
            ManagerBasedEnv(without(change), robot)
    with pytest.raises(RwmError, match="steps every 0.01 s; robot 'anymal_d' is described with 0.02 s"):
        ManagerBasedEnv(FakeEnv(robot, step_dt=0.01), robot)


def test_export_writes_whole_episodes_of_it(robot, tmp_path, monkeypatch):
    fake = FakeEnv(robot, length=10)
    monkeypatch.setattr(export, "make_env", lambda *args: ManagerBasedEnv(fake, robot))
    monkeypatch.setattr(export, "resolve_backend", lambda name: "isaaclab")
    config = ExportConfig(backend="isaaclab", task="My-Task-v0", policy="wander", transitions=100, num_envs=E, name="x")
    dataset = export_dataset(Home.resolve(tmp_path), config)
    assert dataset.rows == 100 and set(dataset.episodes.length[:6]) == {11} and fake.closed
    assert dataset.manifest.provenance["task"] == "My-Task-v0"


def test_task_names_are_looked_up_and_mapped(robot):
    registered = ["Isaac-Velocity-Flat-Anymal-D-v0", "Mine-v0", "Isaac-Ant-v0"]
    assert pick_task("Mine-v0", robot, "isaaclab", registered) == "Mine-v0"
    assert pick_task("Init-v0", robot, "isaaclab", ["Isaac-Velocity-Flat-AnymalD"]) == "Isaac-Velocity-Flat-AnymalD"
    assert pick_task("Init-v0", robot, "isaaclab", registered) == "Isaac-Velocity-Flat-Anymal-D-v0"
    template = "Template-Isaac-Velocity-Flat-Anymal-D-Init-v0"
    assert pick_task("Init-v0", robot, "isaaclab", [*registered, template]) == template
    with pytest.raises(RwmError, match="None of Nope-v0 is registered with isaaclab; velocity tasks: Isaac-Velocity"):
        pick_task("Nope-v0", robot, "isaaclab", registered)
    with pytest.raises(RwmError, match="Robot 'anymal_d' names no task of mjlab"):
        pick_task("Init-v0", robot, "mjlab", registered)


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_pushes_and_start_up_events_can_be_dropped(kind):
    def events():
        return kind(
            push_robot=SimpleNamespace(mode="interval"), base_mass=SimpleNamespace(mode="startup"),
            reset_base=SimpleNamespace(mode="reset"),
        )  # fmt: skip

    def left(**options):
        found = events()
        drop_events(found, **options)
        found = found if isinstance(found, dict) else vars(found)
        return {k for k, v in found.items() if v is not None}

    assert left(pushes=None, randomize=None) == {"push_robot", "base_mass", "reset_base"}
    assert left(pushes=False, randomize=True) == {"base_mass", "reset_base"}
    assert left(pushes=True, randomize=False) == {"push_robot", "reset_base"}


def test_isaac_lab_is_launched_before_its_tasks_are_imported(robot, monkeypatch):
    order, cfg = [], SimpleNamespace(seed=0, episode_length_s=20.0, events=SimpleNamespace(push_robot=object()))

    class AppLauncher:
        def __init__(self, headless):
            order.append("launch")
            self.app = object()

    def module(name, **content):
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def parse(name, device, num_envs):
        order.append(name)
        return cfg

    monkeypatch.setattr(isaaclab_env, "_app", None)
    monkeypatch.setattr(backends, "resolve_backend", lambda name: name)
    module("isaaclab")
    module("isaaclab.app", AppLauncher=AppLauncher)
    module("isaaclab_tasks")
    module("isaaclab_tasks.utils", parse_env_cfg=parse)
    made = SimpleNamespace(unwrapped=FakeEnv(robot))
    module("gymnasium", registry={"Isaac-Velocity-Flat-Anymal-D-v0": 1}, make=lambda name, cfg: made)
    env = backends.make_env(
        "isaaclab", robot, EnvOptions(task="Visualize-v0", num_envs=E, seed=4, episode_length_s=8.0)
    )
    assert order == ["launch", "Isaac-Velocity-Flat-Anymal-D-v0"]
    assert (cfg.seed, cfg.episode_length_s, cfg.events.push_robot) == (4, 8.0, None)
    assert env.step(torch.zeros(E, 12)).transition.shape == (E, 66)
    with pytest.raises(RwmError, match="bounds need the embedded simulator"):
        backends.make_env("isaaclab", robot, EnvOptions(bounds_m=(4.0, 3.0)))


class IsaacLab3:
    """The functions of Isaac Lab 3.0 that launch a task, and what was asked of them."""

    def __init__(self, robot, monkeypatch, make):
        self.asked, self.cfg = [], SimpleNamespace(seed=0, episode_length_s=20.0, events=SimpleNamespace())
        modules = {
            "isaaclab.app": {"launch_simulation": self.launch},
            "isaaclab_tasks": {},
            "isaaclab_tasks.utils": {"parse_env_cfg": self.parse},
            "gymnasium": {"registry": {"Isaac-Velocity-Flat-AnymalD": 1}, "make": make},
        }
        for name, content in ({"isaaclab": {}} | modules).items():
            made = ModuleType(name)
            vars(made).update(content)
            monkeypatch.setitem(sys.modules, name, made)
        monkeypatch.setattr(isaaclab_env, "_launched", ExitStack())

    def parse(self, name, device, num_envs):
        self.asked.append((name, device, num_envs))
        return self.cfg

    @contextmanager
    def launch(self, cfg, arguments):
        self.asked.append((cfg, arguments))
        yield
        self.asked.append("closed")


def test_isaac_lab_3_launches_what_the_configuration_needs_and_no_omniverse(robot, monkeypatch):
    made = SimpleNamespace(unwrapped=like_isaaclab_3(FakeEnv(robot)))
    isaaclab = IsaacLab3(robot, monkeypatch, lambda name, cfg: made)
    env = isaaclab_env.make_isaaclab_env(robot, EnvOptions(num_envs=E, device="cpu"))
    assert isaaclab.asked == [("Isaac-Velocity-Flat-AnymalD", "cpu", E), (isaaclab.cfg, {"device": "cpu"})]
    assert env.step(torch.zeros(E, 12)).transition.shape == (E, 66)


def test_missing_assets_are_named_with_the_command_that_makes_them(robot, monkeypatch):
    def make(name, cfg):
        raise FileNotFoundError("anymal_d.usd")

    IsaacLab3(robot, monkeypatch, make)
    with pytest.raises(RwmError, match=r"AnymalD cannot load what it is made of: anymal_d.usd") as caught:
        isaaclab_env.make_isaaclab_env(robot, EnvOptions(num_envs=E))
    assert caught.value.hint.startswith("rwm robots usd --out FOLDER, then ISAACSIM_ASSET_ROOT=FOLDER")


def test_a_device_that_is_not_here_is_refused(robot, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    IsaacLab3(robot, monkeypatch, None)
    with pytest.raises(RwmError, match="Device 'cuda' was asked for"):
        isaaclab_env.make_isaaclab_env(robot, EnvOptions(device="cuda"))
    monkeypatch.setattr(backends, "resolve_backend", lambda name: name)
    with pytest.raises(RwmError, match="embedded simulator runs on the processor, not on 'cuda'"):
        backends.make_env("mujoco", robot, EnvOptions(device="cuda"))


def test_an_isaac_lab_that_does_not_start_says_why(robot, monkeypatch):
    monkeypatch.setattr(isaaclab_env, "_app", None)
    monkeypatch.setitem(sys.modules, "isaaclab", None)
    with pytest.raises(RwmError, match="Isaac Lab does not start: ModuleNotFoundError"):
        isaaclab_env.make_isaaclab_env(robot, EnvOptions())


def test_the_doctor_names_every_simulator_and_what_is_missing(monkeypatch):
    installed = {"mujoco", "isaaclab", "isaacsim"}
    monkeypatch.setattr(backends, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.delenv("ISAAC_PATH", raising=False)
    monkeypatch.setattr(backends, "_has_nvidia_gpu", lambda: False)
    found = {f.name: f for f in diagnose() if f.topic == "simulator"}
    assert found["mujoco"].ok and not found["isaaclab"].ok and not found["mjlab"].ok
    assert "NVIDIA GPU" in found["isaaclab"].found and found["mjlab"].hint.startswith("pip install mjlab")
    installed -= {"isaacsim", "mujoco"}
    assert "Isaac Sim (package isaacsim) is not installed" in (backends.why_unavailable("isaaclab") or "")
    with pytest.raises(RwmError, match="Backend 'mujoco' is not available here: package mujoco is not installed"):
        backends.resolve_backend("auto")


def test_isaac_lab_with_newton_needs_neither_isaac_sim_nor_a_gpu(monkeypatch):
    installed = {"isaaclab", "isaaclab_newton"}
    monkeypatch.setattr(backends, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.delenv("ISAAC_PATH", raising=False)
    assert "package newton is not installed" in (backends.why_unavailable("isaaclab") or "")
    installed.add("newton")
    assert backends.why_unavailable("isaaclab") is None
    found = next(f for f in diagnose() if f.name == "isaaclab")
    assert found.ok and "with Newton; no PhysX: Isaac Sim (package isaacsim) is not installed" in found.found
