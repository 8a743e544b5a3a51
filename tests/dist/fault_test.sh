#!/usr/bin/env bash
# One fault and what must follow: fault_test.sh CASE PROBE MPIRUN…  MPIRUN ends with the flag that takes
# the number of ranks; PROBE is dist_probe, or nccl_probe for the cases that begin with nccl. Exit code 0
# when the job behaved as documented in docs/distributed.md, 77 without the GPUs that it takes.
set -u
case_name=$1 probe=$2
shift 2
mpirun=("$@")
dir=$(mktemp -d)
job=
# Only what this test started: its mpirun, whose end takes the ranks along.
trap '[[ -n $job ]] && kill -KILL $job 2>/dev/null; rm -rf "$dir"' EXIT

fail() {
  echo "FAILED: $case_name: $*"
  sed 's/^/  | /' "$dir/out" 2>/dev/null | head -40
  exit 1
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
start() {  # ranks behaviour
  "${mpirun[@]}" "$1" "$probe" "$2" "$dir" >"$dir/out" 2>&1 &
  job=$!
}
wait_for() {  # file name, at most 20 s
  for _ in $(seq 400); do
    [[ -s $dir/$1 ]] && return
    sleep 0.05
  done
  fail "$1 never appeared"
}
finish() {  # sets rc and took_ms
  local begin
  begin=$(now_ms)
  wait "$job"
  rc=$?
  job=
  took_ms=$(($(now_ms) - begin))
}
finish_on_gpus() {
  finish
  [[ $rc -ne 77 ]] || { grep SKIPPED "$dir/out"; exit 77; }
}
expect_rc() { [[ $rc -eq $1 ]] || fail "expected exit code $1, got $rc"; }
expect_within() { ((took_ms <= $1)) || fail "expected an end within $1 ms, took $took_ms ms"; }
expect_said() { grep -qE "$1" "$dir/out" || fail "expected a line like '$1'"; }
# No rank may outlive the job; a stopped one needs a moment to be reaped.
expect_gone() {
  local f pid
  for f in "$dir"/pid.*; do
    pid=$(<"$f")
    for _ in $(seq 60); do
      kill -0 "$pid" 2>/dev/null || continue 2
      sleep 0.05
    done
    fail "rank process $pid outlived the job"
  done
}
expect_stopped_together() {  # ranks
  local r
  for ((r = 0; r < $1; ++r)); do
    [[ -s $dir/stopped.$r ]] || fail "rank $r did not stop in order"
    [[ $(<"$dir/stopped.$r") == "$(<"$dir/stopped.0")" ]] || fail "ranks stopped after different steps"
  done
}

case $case_name in
throw) # one rank fails with an error: its exit code is the job's
  start 3 throw && wait_for pid.0 && finish
  expect_rc 20 && expect_within 5000 && expect_gone && expect_said "a rank fails" ;;
abort)
  start 3 abort && wait_for pid.0 && finish
  expect_rc 22 && expect_within 5000 && expect_gone ;;
kill)
  start 3 kill && wait_for pid.0 && finish
  expect_rc 137 && expect_within 5000 && expect_gone ;;
exit) # a rank that leaves without finalising is an error even with exit code 0
  start 2 exit && wait_for pid.0 && finish
  [[ $rc -ne 0 ]] || fail "a lost rank went unnoticed"
  expect_within 5000 && expect_gone ;;
freeze | sleep) # limit 2 s; Open MPI may need some more to end the stopped rank
  start 2 "$case_name" && wait_for pid.1 && finish
  expect_rc 21 && expect_within 9000 && expect_gone
  expect_said "\[watchdog\] rank [01]: no progress for 2\.[0-9] s \(limit 2\.0 s\) in phase step, step [56], probe; last collective: all_gather_bytes call [0-9]+ of group world" ;;
mismatch)
  start 3 mismatch && wait_for pid.0 && finish
  expect_rc 21 && expect_within 5000 && expect_gone
  expect_said "rank 0 called all_reduce .*8 rows of 4 bytes.*rank 2 called all_reduce .*9 rows of 4 bytes" ;;
slow | save) # healthy, but close to or above the limit of other phases
  start 2 "$case_name" && wait_for pid.0 && finish
  expect_rc 0 ;;
usr1) # to mpirun, which forwards it
  start 3 run && wait_for ready.0 && kill -USR1 $job && finish
  expect_rc 75 && expect_within 3000 && expect_stopped_together 3 && expect_gone ;;
usr1-twice)
  start 2 run && wait_for ready.0 && kill -USR1 $job && kill -USR1 $job && finish
  expect_rc 75 && expect_stopped_together 2 && expect_gone ;;
term) # to mpirun, which sends SIGCONT at once and kills two seconds later; its exit code is its own
  start 3 run && wait_for ready.0 && kill -TERM $job && finish
  [[ $rc -ne 0 ]] || fail "expected an exit code other than 0"
  expect_within 5000 && expect_stopped_together 3 && expect_gone ;;
term-one-rank)
  start 3 run && wait_for ready.1 && kill -TERM "$(<"$dir/pid.1")" && finish
  expect_rc 75 && expect_stopped_together 3 && expect_gone ;;
launcher-killed)
  start 2 run && wait_for ready.0 && kill -KILL $job && finish
  expect_gone ;;
no-launcher) # directly, and with no MPI program in reach: one rank, no daemon
  out=$(env -i PATH=/nonexistent "$probe" where "$dir" 2>/dev/null)
  [[ $out == "0/1 self local 0/1 threads "* ]] || fail "got '$out'" ;;
announced-size) # a launcher of another MPI: every process would train alone
  env PMI_SIZE=4 PMI_RANK=0 "$probe" where "$dir" >"$dir/out" 2>&1
  rc=$?
  expect_rc 3 && expect_said "PMI started 4 ranks, MPI finds 1" ;;
srun-without-mpi)
  env SLURM_STEP_NUM_TASKS=8 "$probe" where "$dir" >"$dir/out" 2>&1
  rc=$?
  expect_rc 3 && expect_said "srun started 8 tasks without MPI support" ;;
default-binding) # mpirun's own binding to one core must not cost the others
  unset OMPI_MCA_hwloc_base_binding_policy
  start 1 where && finish
  expect_rc 0 && expect_said "threads $(env -u OMP_NUM_THREADS nproc)$" ;;
asked-binding)
  export OMPI_MCA_hwloc_base_binding_policy=core
  start 1 where && finish
  expect_rc 0 && expect_said "threads 1$" ;;
no-cross-memory) # Docker's default profile: found and worked around before MPI starts
  unset OMPI_MCA_btl_vader_single_copy_mechanism
  here=$(dirname "$probe")
  "${mpirun[@]}" 2 "$here/deny_cross_memory" "$here/mpi_contract" large moves >"$dir/out" 2>&1
  rc=$?
  [[ $rc -eq 77 ]] && exit 77
  expect_rc 0 && expect_said "forbids cross-memory reads" && expect_said "2 cases passed on 2 ranks"
  ! grep -q "Read -1" "$dir/out" || fail "Open MPI still tried" ;;
two-hosts) # pretended by UTS namespaces, which only root may make; ranks come interleaved from mpirun
  unshare --uts true 2>/dev/null || { echo "SKIPPED: no UTS namespaces"; exit 77; }
  cat >"$dir/rsh" <<'RSH'
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
host=$1
shift
exec unshare --uts bash -c "hostname $host; $*"
RSH
  chmod +x "$dir/rsh"
  mpirun=("${mpirun[0]}" --mca plm_rsh_agent "$dir/rsh" --mca plm_rsh_no_tree_spawn 1
          --host "nodea:2,nodeb:3" --map-by node "${mpirun[@]:1}")
  start 5 where && finish
  expect_rc 0 && expect_said "5 ranks \(mpi\) on 2 hosts" && expect_said "between 2 and 3 ranks"
  for line in "0/5 mpi local 0/2" "1/5 mpi local 1/2" "2/5 mpi local 0/3" "3/5 mpi local 1/3" "4/5 mpi local 2/3"; do
    expect_said "^$line"
  done
  "${mpirun[@]}" 4 "$(dirname "$probe")/mpi_contract" reductions moves groups >"$dir/out" 2>&1
  rc=$?
  expect_rc 0 ;;
nccl-kill) # in the middle of collectives on the device, which no other rank can know of
  start 2 kill && finish_on_gpus
  expect_rc 137 && expect_within 30000 && expect_gone ;;
nccl-freeze | nccl-sleep) # limit 4 s, from when the ranks are connected
  start 2 "${case_name#nccl-}" && finish_on_gpus
  expect_rc 21 && expect_within 60000 && expect_gone
  expect_said "\[watchdog\] rank [01]: no progress for 4\.[0-9] s \(limit 4\.0 s\) in phase step, step 5, probe; last collective: all_reduce call [0-9]+ of group world \(16777216 bytes\), queued on the device" ;;
nccl-throw) # a rank fails with a collective under way: it gets out of it, and its exit code is the job's
  start 2 throw && finish_on_gpus
  expect_rc 20 && expect_within 60000 && expect_gone && expect_said "a rank fails" ;;
nccl-network) # peers lose each other's connections while both live: only NCCL can notice
  export NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 NCCL_IB_DISABLE=1
  start 2 network && finish_on_gpus
  expect_rc 21 && expect_within 60000 && expect_gone
  expect_said "NCCL reports .*; last collective: all_reduce call [0-9]+ of group world" ;;
nccl-same-gpu)
  start 2 same-gpu && finish_on_gpus
  expect_rc 2 && expect_within 60000 && expect_gone
  expect_said "ranks 0 and 1 use the same GPU, cuda:0 of host .*: NCCL takes one GPU per rank" ;;
*)
  fail "unknown case" ;;
esac
echo "passed: $case_name"
