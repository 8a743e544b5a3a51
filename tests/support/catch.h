// Hides the difference between Catch2 2.13 (Debian 12) and 3.x (Ubuntu 24.04). Contains(text) matches
// strings in both.
#pragma once

#include <string>

#ifdef DSV_CATCH2_V3
#include <catch2/catch_all.hpp>
using Catch::Approx;
inline auto Contains(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }
#else
#define CATCH_CONFIG_FAST_COMPILE
#include <catch2/catch.hpp>
inline auto Contains(const std::string& text) { return Catch::Matchers::Contains(text); }
#endif
