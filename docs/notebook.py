# %% [markdown]
# # A study in a notebook
#
# From one table to a federated model and its predictions, in this process and without any service.
# A test runs this file as it stands. The table is scikit-learn's breast cancer data, cut into four
# silos that differ in their share of cases.

# %%
import tempfile
from pathlib import Path

from sklearn.datasets import load_breast_cancer

from consilo import Partition
from silos import simulate_cut

table = load_breast_cancer(as_frame=True).frame
columns = {"mean radius": "mean_radius", "mean texture": "mean_texture", "target": "benign"}
table = table[list(columns)].rename(columns=columns)
study = Path(tempfile.mkdtemp(prefix="study-"))

# %% [markdown]
# ## Contract and job
#
# The contract says what every silo's table must look like, the job what is trained on it. `consilo
# new` drafts both from a table.

# %%
(study / "tumours.yaml").write_text("""
name: tumours
version: 1
columns:
  mean_radius: {type: float, range: {min: 0, max: 50}}
  mean_texture: {type: float, range: {min: 0, max: 60}}
  benign: {type: integer, allowed: [0, 1], role: target}
rules: {min_rows: 20}
""")
(study / "job.yaml").write_text("""
name: tumours
contract: tumours@1
task: binary
model: {name: "consilo.learners.tabular:MLP", args: {hidden: [8]}}
protocol: {name: fedavg, rounds: 8}
local: {batch_size: 32, epochs: 2, optimizer: adam, lr: 0.02}
quorum: {min_silos: 3}
""")

# %% [markdown]
# ## Run
#
# `simulate` does the same with silos that you have as frames or as directories.

# %%
cut = Partition(silos=4, rule="dirichlet", alpha=1.0, seed=1)
result = simulate_cut(study / "job.yaml", table, cut, engine="inline", say=print)
print(result.status, result.reason)

# %% [markdown]
# ## Look

# %%
print(result.history[["roc_auc", "log_loss"]])
print(result.silos.frame[["status", "num_examples", "roc_auc"]])
figure = result.plot()

# %% [markdown]
# ## Use
#
# Scale and encoding are inside the model. A row that the contract does not allow is refused, or
# flagged; it is never answered as if it were in order.

# %%
new = table.head(5).drop(columns="benign")
print(result.predict(new))
new.loc[2, "mean_radius"] = 1e6
print(result.predict(new, invalid="flag"))

# %% [markdown]
# ## Keep
#
# `out/model` needs nothing of Consilo: `consilo predict out/model --data new.csv`, or its
# `scoring.py`.

# %%
written = result.save(study / "out")
print(written)
