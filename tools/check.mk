# Included by the Makefile: the variables are checked before anything runs.
# GNU make 3.81, which macOS has, must understand this.

VARIABLES := STUDY DATA_DIR WEIGHTS_DIR REPORTS_DIR LESION_CACHE DEVICE THREADS JOBS CLUSTER OFFLINE IMAGES LABELS MODEL \
  OUT ONNX PUSH TO A B OUTPUTS FROM NAME SET REV WEB VENV PYTHON TORCH
# What people set for the tools below, and make for itself.
FOREIGN   := OMP_% MKL_% CUDA_% HF_% UV_% PIP_% %_proxy %_PROXY MAKE% SHELL

# What is typed on the command line reaches recipes as "$$NAME", as it was typed: in a folder's name, $ is no variable.
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
define as_typed
override $(1) := $$(value $(1))
export $(1)
endef
$(foreach name,$(filter $(VARIABLES),$(TYPED)),$(eval $(call as_typed,$(name))))
export STUDY VENV PYTHON TORCH

UNKNOWN := $(filter-out $(VARIABLES) $(FOREIGN),$(TYPED))
quote    = '$(subst ','\'',$(1))'
as_set   = $(if $(filter environment%,$(origin $(1))),$(value $(1)),$($(1)))
CHECKED := $(shell sh tools/check.sh $(foreach name,STUDY VENV TORCH REPORTS_DIR PYTHON UNKNOWN VARIABLES,$(call quote,$(call as_set,$(name)))))
ifneq ($(firstword $(CHECKED)),ok)
  $(error $(CHECKED))
endif
KEYS   := $(word 2,$(CHECKED))/$(STUDY)/keys
ENV    := $(VENV)/$(word 3,$(CHECKED))
DEV    := $(VENV)/$(word 4,$(CHECKED))
EXTRAS := $(VENV)/$(word 5,$(CHECKED))
