-- wrk: reads of accounts. Arguments: token, anything, file of account ids.
local counter = 0
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("id", threads)
end

function init(args)
  accounts = {}
  for line in io.lines(args[3]) do
    accounts[#accounts + 1] = line
  end
  headers = { ["Authorization"] = "Bearer " .. args[1] }
end

function request()
  counter = counter + 1
  local account = accounts[(counter * 7919 + id) % #accounts + 1]
  return wrk.format("GET", "/api/v1/accounts/" .. account, headers)
end
