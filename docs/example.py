"""Load a policy, step its environment by hand, and plot what it asked for and earned: episode.png.

python docs/example.py results/policies/scratch/hopper/seed0
"""

import sys

import matplotlib.pyplot as plt

from dt import Agent, evaluate, load_policy
from dt.environments import make_environment

policy = load_policy(sys.argv[1])
print(f"{policy.task.gymnasium}: {policy.parameter_count} weights, context of {policy.task.context} steps")

# One episode, by hand: any loop around a Gymnasium environment will do.
environment = make_environment(policy.task.gymnasium, policy.task.arguments)
agent = Agent(policy, environment)  # asks for what its study asked for
state, _ = environment.reset(seed=0)
action, rewards, asked, ended = agent.reset(state), [], [], False
while not ended:
    asked.append(agent.return_to_go)
    state, reward, terminated, truncated, _ = environment.step(action)
    rewards.append(float(reward))
    ended = terminated or truncated
    if not ended:
        action = agent.act(state, reward)
print(f"earned {sum(rewards):.0f} of {agent.target_return:.0f} in {len(rewards)} steps")

# Many episodes, in batches
returns = [episode.total for episode in evaluate(policy, episodes=5)]
print(f"five episodes: {min(returns):.0f} to {max(returns):.0f}")

figure, (above, below) = plt.subplots(2, sharex=True, layout="constrained")
above.plot(asked)
above.set_ylabel("return-to-go")
below.plot(rewards)
below.set_ylabel("reward")
below.set_xlabel("step")
figure.savefig("episode.png", dpi=150)
