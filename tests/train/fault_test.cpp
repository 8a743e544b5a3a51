#include "dsv/train/fault.h"

#include <chrono>

#include "dsv/base/error.h"
#include "support/catch.h"

namespace dsv::train {
namespace {

struct Faults {
  explicit Faults(std::string_view spec) { set_faults(spec); }
  ~Faults() { set_faults(""); }
};

std::string refusal(std::string_view spec) {
  try {
    const Faults faults(spec);
    return "accepted";
  } catch (const Error& error) {
    return error.code() == ExitCode::kConfig ? error.what() : "wrong code";
  }
}

TEST_CASE("a fault hits its point, rank and step only", "[fault]") {
  CHECK(fault_point("grad", 1, 5) == FaultAction::kNone);
  const Faults faults(
      "grad:nan@1,5;ckpt_write:enospc@*,7;ckpt_fsync:eio@2,*;ckpt_write:shortwrite@0,8");
  CHECK(fault_point("grad", 1, 5) == FaultAction::kNan);
  CHECK(fault_point("grad", 0, 5) == FaultAction::kNone);
  CHECK(fault_point("grad", 1, 4) == FaultAction::kNone);
  CHECK(fault_point("step", 1, 5) == FaultAction::kNone);
  CHECK(fault_point("ckpt_write", 9, 7) == FaultAction::kEnospc);
  CHECK(fault_point("ckpt_write", 0, 8) == FaultAction::kShortWrite);
  CHECK(fault_point("ckpt_fsync", 2, 1000) == FaultAction::kEio);
  CHECK(fault_point("ckpt_fsync", 1, 1000) == FaultAction::kNone);
  set_faults("");
  CHECK(fault_point("grad", 1, 5) == FaultAction::kNone);
}

TEST_CASE("a sleeping fault takes its time", "[fault]") {
  const Faults faults("step:sleep=30@0,1");
  const auto start = std::chrono::steady_clock::now();
  CHECK(fault_point("step", 0, 1) == FaultAction::kNone);
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(30));
}

TEST_CASE("a mistake in DSV_FAULT is an error, not an inert fault", "[fault]") {
  CHECK_THAT(refusal("ckpt_wrte:kill9@0,1"), Contains("no point 'ckpt_wrte' (known: ckpt_open"));
  CHECK_THAT(refusal("step:kill@0,1"), Contains("no action 'kill' (known: kill9"));
  CHECK_THAT(refusal("step:kill9@-1,1"), Contains("'-1' is not a number"));
  CHECK_THAT(refusal("step:kill9@0,x"), Contains("'x' is not a number"));
  CHECK_THAT(refusal("step:kill9@0,1 "), Contains("'1 ' is not a number"));
  CHECK_THAT(refusal("step:sleep=@0,1"), Contains("'' is not a number"));
  for (const char* spec : {"step", "step:kill9", "step:kill9@1", "step@1,2:kill9", ";",
                           "step:nan@0,1;;grad:nan@0,1"}) {
    CHECK_THAT(refusal(spec), Contains("expected point:action@rank,step"));
  }
  CHECK(refusal("") == "accepted");
  CHECK(refusal("step:nan@0,1;") == "accepted");
}

}  // namespace
}  // namespace dsv::train
