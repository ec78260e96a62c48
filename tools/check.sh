#!/bin/sh
# What make asks before it begins, in one call: sh tools/check.sh STUDY VENV TORCH REPORTS_DIR PYTHON UNKNOWN KNOWN
# UNKNOWN are variables of make's command line that the project does not have, and KNOWN are those that it has.
# Prints "ok", the folder of reports as make can write it, and the names of the environment's stamps; or what is wrong.
study=$1 venv=$2 torch=$3 reports=$4 python=$5 unknown=$6 known=$7
cd "$(dirname "$0")/.." || exit

# What is left of a text without letters (of any language), digits and the other characters given.
odd() { printf %s "$1" | LC_ALL=C tr -d "0-9A-Za-z\200-\377$2"; }
refuse() { echo "$*"; exit; }

for name in $unknown; do
  close=$("$python" -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], n=1))' \
    "$name" $known 2>/dev/null)
  if test -n "$close"; then refuse "$name is no variable of this project (did you mean $close?)"; fi
  refuse "$name is no variable of this project; there are: $known"
done

# A study is one folder below params/: a name that leads elsewhere (.., a path, none at all) reaches no recipe.
case $study in '' | .* | -*) left=odd ;; *) left=$(odd "$study" '._-') ;; esac
if test -n "$left"; then
  studies=$(for file in params/*/data.yaml; do file=${file%/data.yaml}; printf ' %s' "${file#params/}"; done)
  refuse "STUDY=\"$study\" must be one folder under params/, named with letters, digits, \".\", \"_\" and \"-\", such as$studies"
fi
case $venv in '' | -*) left=odd ;; *) left=$(odd "$venv" './_~+@=-') ;; esac
test -z "$left" || refuse "VENV=\"$venv\" must be a folder named with letters, digits and ./_~+@=-: make cannot name others"
case $torch in
  auto | cpu | gpu | cu[0-9][0-9][0-9]) ;;
  *) refuse "TORCH=\"$torch\" must be auto, cpu, gpu, or an older CUDA such as cu126" ;;
esac

# make cannot name a file in a folder whose name has a space, a % and the like: it goes there through a link.
folder=$(printf %s "$reports" | sed 's/^ *//; s/ *$//')
folder=${folder:-reports}
if test -n "$(odd "$folder" './_~-')"; then
  mkdir -p reports "$folder" 2>/dev/null || refuse "REPORTS_DIR=\"$reports\" is no folder that can be made"
  link=reports/.elsewhere-$(printf %s "$folder" | cksum | cut -d' ' -f1)
  ln -sfn "$(cd "$folder" && pwd)" "$link"
  folder=$link
fi

# After a clock that went back, times to come would hide changes: those steps look at contents anew.
keys=$folder/$study/keys
if test -d "$keys" && now=$(mktemp 2>/dev/null); then
  find "$keys/" -name '*.json' -newer "$now" -exec touch {} \; -name '*.done.json' -exec touch -t 197001020000 {} \;
  rm -f "$now"
fi

echo ok "$folder" "$(VENV=$venv sh tools/environment.sh stamps "$torch")"
