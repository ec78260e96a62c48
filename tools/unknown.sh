#!/bin/sh
# make was asked for something that it does not have: name what is closest, and fail.
cd "$(dirname "$0")/.." || exit
known=$(sed -n 's/^\([a-z][a-z-]*\):.*  ## .*/\1/p' Makefile)
close=$("${PYTHON:-python3}" -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], n=1))' \
  "$1" $known 01_eda 02_augmentation_preview 03_resnet50_finetune 04_vgg19_finetune 05_comparison 2>/dev/null)
echo "make has nothing called '$1'${close:+: did you mean '$close'?} ('make' alone lists everything)" >&2
exit 2
