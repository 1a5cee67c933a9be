"""What learns: all but what patterns say, all but what matters most, or more and more as training goes on."""

from forgetting.execution import execution_groups
from forgetting.freezing.frozen import Frozen, freeze
from forgetting.freezing.gradual import gradual_unfreezing, lp_ft
from forgetting.freezing.important import freeze_important
from forgetting.freezing.unfreezing import Unfreezing
from forgetting.norms import still

__all__ = ["Frozen", "Unfreezing", "execution_groups", "freeze", "freeze_important", "gradual_unfreezing", "lp_ft",
           "still"]
